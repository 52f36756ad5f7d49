"""First floor: train, calibrate and use the fairness reward model.

``training.train_reward_model`` makes a folder, ``scoring.RewardModel`` reads it, ``ranking`` orders answers
by it and ``classifying`` labels texts with it. ``rendering`` decides which token ids all of them see;
``windows`` reads texts beyond the context. ``calibrating``, ``faces`` and ``card`` are what a folder is published
with: a calibrated probability, a stock classifier of it, and the model card.
"""
