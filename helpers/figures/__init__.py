"""Figures: of runs, of the ideas behind them, and of what a network got wrong. They compute nothing of a training."""
