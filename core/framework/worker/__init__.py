"""The worker: what turns messages into settled tasks.

bytes -> transport -> `intake` -> `dispatch` -> pool -> `execute` -> `settle` -> back to the delivery.
"""
