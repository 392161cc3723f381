"""Backbones on torch, timm and MMEngine alone.

A merged model gets a copy of the file that it needs, so these files import
nothing else of this project.
"""
