// Calico's two node programs in one: the policy daemon Felix and the CNI plugin, told apart by the name they are called by.
package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/projectcalico/calico/cni-plugin/pkg/plugin"
	"github.com/projectcalico/calico/felix/daemon"
)

// version is what Felix compares with the ClusterInformation object; the pinned module is the tree of this release.
const version = "v3.28.5"

func main() {
	switch name := filepath.Base(os.Args[0]); name {
	case "calico":
		plugin.Main(version)
	case "calico-felix":
		// Felix reads a configuration file only if it is there: all settings come from its environment.
		daemon.Run("/nonexistent", version, "", "")
	default:
		fmt.Fprintf(os.Stderr, "%s: not a name this program answers to\n", name)
		os.Exit(2)
	}
}
