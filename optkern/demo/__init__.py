"""The demo: a small NumPy network learns real data with every update rule.

Written as a user would write it; nothing else in optkern imports it.
"""
