"""Sub-commands of ``framework`` that come in as plugins: each entry point of ``framework.commands`` is one."""
