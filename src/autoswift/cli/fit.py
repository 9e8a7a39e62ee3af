"""`fit`: does a training fit a device, and how fast would it be?"""
