"""The whole way of the data on one machine: a small PACS, phantoms, the daemon, a report."""
