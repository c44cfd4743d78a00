"""Conformance suites for plugins, one for each family, and tools for such tests.

1. `pools`, `transports`, `fsnotify`, `autoscalers`, `result_stores`: one class each, to be subclassed in one line;
   every promise of the contract is a test.
2. `plugin`: the pytest plugin of the suites, which runs each test in the thread or process that it needs.
3. `harness`, `workload`: a pool in a real loop with a record of its reports, and jobs that follow their payload.
4. `ledger`, `wait`, `survey`: accounting, waiting for events, and the resources that a process holds.
5. `simulation`: an autoscaler on simulated load; `framework autoscale` uses it, too.

The suites need pytest: ``pip install 'framework[testing]'``. No other module outside this package imports it.
"""
