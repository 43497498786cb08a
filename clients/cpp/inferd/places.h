// Where kernels are looked for that no address names.
#pragma once

#include <string>
#include <vector>

namespace inferd {

// The sockets of this user, then that of the host, in order.
std::vector<std::string> sockets();

// The address of the first of them where a kernel listens; where none does, of the first one of all. A folder that
// somebody else could write to is passed over, so that nobody is given a call, or a credential, who is not the user or
// the administrator of this host.
std::string find_address();

}  // namespace inferd
