package main

import "github.com/spf13/cobra"

func (a *app) commands() []*cobra.Command {
	return []*cobra.Command{
		newBenchCommand(a),
		newEventCommand(a),
		newPublishCommand(a),
		newStreamCommand(a),
		newTailCommand(a),
		newVersionCommand(a),
	}
}
