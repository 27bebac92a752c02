"""Every performance figure of the project: `make bench`."""
