"""Backbones and necks on torch, timm and MMEngine alone.

A merged model gets a copy of the files that it needs, so these files import
nothing of this project but one another.
"""
