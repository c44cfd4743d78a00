"""Settings: their definitions, sources and display.

- `tables` holds a struct for each table of the config file, and the list of settings without effect.
- `settings` joins the tables to `Settings`; other packages import the structs from there.
- `options` lists the settings as `Option`s, by flat name, and checks and converts their values.
- `sources` reads the config file, the environment and flags, and merges them.
- `conf` is `app.conf`, through which code reads and writes settings.
- `show` masks and formats settings for display, and makes the JSON Schema of the config file.
- `toml_lines` finds the line of a key in a TOML file, for messages.
- `autoscale`, `health` and `nodename` parse values with a syntax of their own: the sizes of a pool, the address of the
  health endpoint, and the names of nodes and their files.
"""
