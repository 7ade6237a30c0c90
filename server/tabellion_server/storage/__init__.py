"""Stores: one interface, its engines, one contract test."""
