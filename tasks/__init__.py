"""What is decided and done behind the edge: policy (pure), the drain, housekeeping. No Flask request, no socket."""
