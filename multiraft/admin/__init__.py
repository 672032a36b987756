"""The admin API: everything that programs can do with a host, over HTTP."""
