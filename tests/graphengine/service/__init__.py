"""Tests of the service: its modules, and in folders of their own the promises that many of them hold together."""
