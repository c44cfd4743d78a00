"""What the tests share: private brokers, worker processes, ledgers, waiting, and sample applications."""
