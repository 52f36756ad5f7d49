"""The doors: one thin script per thing a user does. Each parses arguments and calls one function below."""
