"""Optimisation: ScaledAdam, the Eden schedules, and grouping of parameters."""
