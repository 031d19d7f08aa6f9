"""The commands of the Makefile and the documentation that are no stages, such as `make report`."""
