"""The dispatcher: the gateway that faces users, holds the tools and the rules, and can pull the plug."""
