"""First floor: train, calibrate and use the fairness reward model.

``training.train_reward_model`` makes a folder, ``scoring.RewardModel`` reads it, ``ranking`` orders answers
by it and ``classifying`` labels texts with it. ``rendering`` decides which token ids all of them see.
"""
