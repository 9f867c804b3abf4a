"""Mixed precision by budget: what each rounding costs at the outputs, what each form takes on the target, and the cheapest mixture."""
