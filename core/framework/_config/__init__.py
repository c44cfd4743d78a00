"""Settings: what there is to set, where values come from, and how they are shown.

- `tables` holds a struct for each table of the config file, and the list of settings that change nothing.
- `settings` joins the tables to `Settings`, and is where other rooms import them from.
- `options` lists the settings as `Option`s, by flat name, and makes a value of what text or code says.
- `sources` reads the config file, the environment and flags, and lays them over each other.
- `conf` is `app.conf`, through which code reads and writes settings.
- `show` prepares settings for people, and makes the JSON Schema of the config file.
- `toml_lines` finds the line of a key in a TOML file, for messages.
- `autoscale`, `health` and `nodename` read the values that have a grammar of their own: the sizes of a pool, the
  address of the health endpoint, and the names of nodes and their files.
"""
