"""Behind `python -m pyloop.run` and pyloop.serve().

cli       options and exit statuses          load      finds the application, tells what kind it is
serving   sockets, signals, start and stop   lifespan  the application's start-up and shutdown
logs      what is written where
"""
