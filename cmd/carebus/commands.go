package main

import "github.com/spf13/cobra"

func (a *app) commands() []*cobra.Command {
	return []*cobra.Command{
		newArchiveCommand(a),
		newBackupCommand(a),
		newBenchCommand(a),
		newBridgeCommand(a),
		newCatalogCommand(a),
		newDLQCommand(a),
		newDemoCommand(a),
		newEventCommand(a),
		newFlowCommand(a),
		newGroupCommand(a),
		newImportCommand(a),
		newJobCommand(a),
		newPolicyCommand(a),
		newPublishCommand(a),
		newReplayCommand(a),
		newRunCommand(a),
		newSagaCommand(a),
		newServeCommand(a),
		newSizeCommand(a),
		newProjectionCommand(a),
		newAuditCommand(a),
		newAsyncAPICommand(a),
		newSchemaCommand(a),
		newStateCommand(a),
		newStreamCommand(a),
		newTailCommand(a),
		newTokenCommand(a),
		newTopologyCommand(a),
		newVerifyCommand(a),
		newMigrateCommand(a),
		newVersionCommand(a),
	}
}
