"""Teach a policy what is fair, and the policies that are taught."""
