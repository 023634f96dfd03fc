"""The HTTP API, one module per resource. Views validate, call one thing, and wrap its answer."""
