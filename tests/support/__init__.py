"""What tests need and the product does not: a whole private instance, exact clients, a recorded history and its checker."""
