"""The client: what a program that sends tasks, reads results and steers workers uses.

`app` is the centre: it holds the tasks (`task`, `registry`), the sender (`sender`, `messages`, `routing`, `publisher`)
and the doors to `results`, `control` and `events`. `canvas` makes workflows; `workflow` carries them on when a task
ends.
"""
