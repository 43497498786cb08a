"""The command line. `main` declares the commands; each loads the module that does its work when it is called."""
