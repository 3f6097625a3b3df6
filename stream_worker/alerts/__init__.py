"""Alerts: rules find conditions in readings; a condition that lasts is an alert with a life."""
