"""The machine: files, folders, processes, threads, sockets, terminals and devices."""
