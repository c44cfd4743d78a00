"""Starting.

`graph` (order), `blueprint` (start and stop), `steps` and `consumption` (what there is), `preload`, `worker` (all).
"""
