"""The command line: thin. Reads options, calls the library, prints."""
