"""The client: sends tasks, reads results and controls workers.

`app` holds the tasks (`task`, `registry`) and the sender (`sender`, `messages`, `routing`, `publisher`), and leads to
`results`, `control` and `events`. `canvas` makes workflows; `workflow` continues them when a task ends.
"""
