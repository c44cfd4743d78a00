"""The worker, in rooms in the order in which a task flows: intake, dispatch, execute, settle.

Around them are its `process`, `autoscaler`, `autoreload`, and the `steps` that start all of it.
"""
