"""The minimal core: finds plugins, orders and starts steps, runs the event loop.

`families`, `catalog`, `loader` and `hooks` find and load plugins; `graph`, `blueprint` and `drawing` order, start and
draw steps; `preload` prepares the process for its pool; `loop` and `selector` are the event loop.
"""
