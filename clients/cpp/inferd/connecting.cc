#include "inferd/connecting.h"

#include <cstdlib>
#include <fstream>
#include <regex>
#include <sstream>
#include <stdexcept>

#include <sys/stat.h>
#include <unistd.h>

#include "inferd/places.h"

namespace inferd {
namespace {

constexpr std::size_t kLongestPath = 107;  // of a socket in a file, in bytes; see unix(7)
constexpr std::size_t kLongestCredential = 8192;
constexpr int kMaxPort = 65535;
constexpr int kMostBytes = 64 << 20;

std::string variable(const char* name) {
  const char* said = std::getenv(name);
  return said == nullptr ? "" : said;
}

std::string first_of(const std::string& one, const std::string& other) { return one.empty() ? other : one; }

// A file; one with a secret only if nobody else can read it.
std::string read(const std::string& path, const std::string& name, bool is_secret) {
  struct stat found;
  std::ifstream file(path, std::ios::binary);
  if (!file || stat(path.c_str(), &found) != 0 || !S_ISREG(found.st_mode)) {
    throw std::invalid_argument("the file " + path + " of " + name + " cannot be read");
  }
  if (is_secret && (found.st_mode & 077 || (found.st_uid != 0 && found.st_uid != geteuid()))) {
    std::ostringstream mode;
    mode << std::oct << (found.st_mode & 0777);
    throw std::invalid_argument("the file " + path + " of " + name + " has mode " + mode.str() + " and owner " +
                                std::to_string(found.st_uid) + ", so that others could use it: chmod 600 " + path);
  }
  std::ostringstream held;
  held << file.rdbuf();
  return held.str();
}

std::string credential_of(const Options& options) {
  std::string said = options.credential, file = options.credential_file;
  if (said.empty() && file.empty()) said = variable("INFERD_CREDENTIAL");
  if (said.empty() && file.empty()) file = variable("INFERD_CREDENTIAL_FILE");
  if (said.empty() && !file.empty()) {
    said = read(file, "credential_file", true);
    while (!said.empty() && std::isspace(static_cast<unsigned char>(said.back()))) said.pop_back();
    if (said.empty()) throw std::invalid_argument("the file " + file + " of credential_file holds no credential");
  }
  for (const unsigned char each : said) {
    if (each < 0x21 || each > 0x7e || said.size() > kLongestCredential) {
      throw std::invalid_argument("the credential is none: it must be 1 to 8192 visible letters of ASCII");
    }
  }
  return said;
}

std::shared_ptr<grpc::ChannelCredentials> secured(const Options& options, const std::string& address, bool mutual) {
  const std::string ca = first_of(options.ca_file, variable("INFERD_CA_FILE"));
  const std::string cert = first_of(options.cert_file, variable("INFERD_CERT_FILE"));
  const std::string key = first_of(options.key_file, variable("INFERD_KEY_FILE"));
  if ((mutual || !cert.empty() || !key.empty()) && (cert.empty() || key.empty())) {
    throw std::invalid_argument(address + " takes a certificate of the client and its key: name cert_file and key_file");
  }
  grpc::SslCredentialsOptions files;
  if (!ca.empty()) files.pem_root_certs = read(ca, "ca_file", false);
  if (!cert.empty()) files.pem_cert_chain = read(cert, "cert_file", false);
  if (!key.empty()) files.pem_private_key = read(key, "key_file", true);
  return grpc::SslCredentials(files);
}

bool is_here(const std::string& host) {
  static const std::regex loopback("localhost|127(\\.[0-9]{1,3}){3}|\\[::1\\]");
  return std::regex_match(host, loopback);
}

grpc::ChannelArguments arguments() {
  grpc::ChannelArguments made;
  made.SetMaxReceiveMessageSize(kMostBytes);
  made.SetMaxSendMessageSize(kMostBytes);
  // A server that states no rule of its own takes one ping in five minutes.
  made.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 310000);
  made.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20000);
  made.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  made.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 2000);
  made.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // one client, one connection
  made.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);          // a proxy for the web has no way to the loopback interface
  return made;
}

}  // namespace

Way find_way(const Options& options) {
  static const std::regex form("(tls:|mtls:)?((\\[[0-9a-fA-F:.]+\\]|[^\\s/:\\[\\]]+):([0-9]{1,5}))");
  Way way;
  way.address = first_of(options.address, variable("INFERD_ADDRESS"));
  if (way.address.empty()) way.address = find_address();
  way.credential = credential_of(options);
  const std::string& address = way.address;
  if (address.rfind("unix:", 0) == 0) {
    const std::string path = address.substr(address.rfind("unix:///", 0) == 0 ? 7 : 5);
    if (path.empty() || path.size() > kLongestPath) {
      throw std::invalid_argument("address " + address + " has a path of " + std::to_string(path.size()) +
                                  " bytes; it must have 1 to " + std::to_string(kLongestPath));
    }
    if (way.credential.empty()) way.tickets = std::make_unique<Tickets>(path);
    way.channel = grpc::CreateCustomChannel("unix:" + path, grpc::InsecureChannelCredentials(), arguments());
    return way;
  }
  std::smatch found;
  if (!std::regex_match(address, found, form) || std::stoi(found[4]) > kMaxPort) {
    throw std::invalid_argument("address " + address + " is not of the form unix:/path, host:port or tls:host:port");
  }
  const std::string target = "dns:///" + found[2].str();
  if (found[1].matched) {
    way.channel = grpc::CreateCustomChannel(target, secured(options, address, found[1] == "mtls:"), arguments());
    return way;
  }
  if (!(options.ca_file + options.cert_file + options.key_file).empty()) {
    throw std::invalid_argument("a certificate is given, and " + address + " is an address without TLS; write tls:" +
                                address);
  }
  if (!way.credential.empty() && !is_here(found[3])) {
    throw std::invalid_argument("a credential would go to " + address +
                                " for everybody on the way to read; use an address with TLS, tls:" + address);
  }
  way.channel = grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), arguments());
  return way;
}

}  // namespace inferd
