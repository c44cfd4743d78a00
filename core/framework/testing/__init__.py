"""What the tests of a plugin import: a conformance suite for each family, and what such tests are made of.

1. `pools`, `transports`, `fsnotify`, `autoscalers`, `result_stores`: one class each, to be subclassed in one line;
   every promise of the contract is a test.
2. `plugin`: the pytest plugin that comes with the project and runs those suites where they have to run.
3. `harness`, `workload`: a pool in a real loop, with books on what it reports, and jobs that do what they are told.
4. `ledger`, `wait`, `survey`: accounting, waiting for events, and what a process holds on to.

Needs pytest: ``pip install 'framework[testing]'``. Nothing outside this package imports it.
"""
