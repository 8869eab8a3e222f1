"""The service: a durable queue of jobs, and what runs them."""
