"""What the engine needs of the machine: files, folders, processes, threads, sockets, terminals, names of devices."""
