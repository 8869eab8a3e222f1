"""The documented API of multigen over graphengine: every Pipe class is a thin prebuilt graph."""
