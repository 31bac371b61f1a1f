"""What stands around the engines: clock and tie rule, replica shells, gateway, pools."""
