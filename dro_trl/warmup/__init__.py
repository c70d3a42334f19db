"""Supervised warm-up of a selector or a generator: its options, its teachers, its trainers."""
