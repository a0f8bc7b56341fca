# What unbound runs for each of its two python modules; PYTHONPATH leads to hook.py, copied beside it.
from sixgate_dns64_hook import deinit, inform_super, init, operate  # noqa: F401
