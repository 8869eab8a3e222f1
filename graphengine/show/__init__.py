"""Presentation of graphs and values: drawings, HTML of values, reports of runs."""
