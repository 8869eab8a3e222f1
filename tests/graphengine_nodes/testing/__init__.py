"""Tests of the small models that tests of nodes are made with."""
