"""The promise that no node, run or caller sees what another changed in place."""
