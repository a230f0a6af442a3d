"""Measuring codecs: metrics, rate–distortion sweeps, classical and published anchors, BD-rate, reports."""
