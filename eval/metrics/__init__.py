"""How good a decoded signal is, one module for each modality.

Every module has ``DEFINITIONS`` (metric → exact definition), ``TITLES`` (metrics that get axes and BD-rates → short title, the most
important first), and three functions: ``quality(signal, decoded)`` of one item, ``errors(signal, decoded)``, the mean squared errors to be
averaged over items, and ``derived(quality, errors)``, what only the means give.
"""
