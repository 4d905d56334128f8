"""Training on many workers: a model of the time it takes (model.py), and what that is fitted on and checked against.

timing.py is what each worker process runs to be timed, measured.py starts such processes; neither is an experiment by itself.
"""
