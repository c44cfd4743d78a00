"""Plugins.

`families` (what there is to plug), `catalog` (lists, imports nothing), `loader` (imports the one chosen and checks it),
`hooks` (pluggy: where many may answer).
"""
