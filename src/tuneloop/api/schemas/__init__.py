"""The shapes of answers, and of the requests that no other room owns.

What is optional in an answer is left out when it is not known.
"""
